-- 130_proofs.sql: when each repo is drilled next, when each stored byte was last read, and what became of damage.

-- How often Everref itself proves what it keeps. 0: never.
alter table team
  add column drill_days int not null default 30 check (drill_days between 0 and 366),  -- every repo is drilled within so many days
  add column read_days  int not null default 30 check (read_days between 0 and 366);   -- and every stored byte is read again

alter table repo
  add column drill_at        timestamptz,           -- when Everref drills it next; null: not planned yet, or never
  add column records_read_at timestamptz,           -- when all of its manifests and notes had last been read; null: never
  add column records_read_to int not null default 0,  -- the last manifest that the reading under way has read; 0: none is
  add column heal_at         timestamptz;           -- when its damage may next be healed; null: at once
create index repo_to_drill on repo (drill_at) where drill_at is not null;
create index repo_to_plan on repo (team_id) where drill_at is null and protected_as_of is not null;

-- What git fsck --strict says of objects that are as their remote has them: no damage, and no reason to fail.
alter table drill add column findings text[] not null default '{}';

-- When a part was last read whole, or was stored. null: not known, so that it is read soon.
alter table part
  add column read_at    timestamptz,
  add column damaged_at timestamptz;  -- when its bytes were found missing or changed; of a replaced part: it is only kept aside
update part set read_at = coalesce(
  verified_at, (select taken_at from snapshot where snapshot.repo_id = part.repo_id and number = last_snapshot)
) where replaced_at is null;
create index part_by_reading on part (read_at nulls first) where replaced_at is null;
create index part_aside on part (repo_id) where damaged_at is not null and deleted_at is null;

-- A row is what the rotation read of a team's repos on one day (UTC).
create table reading (
  team_id  uuid     not null references team on delete cascade,
  day      date     not null,
  bytes    count_of not null,
  objects  count_of not null,   -- parts, indexes, manifests and notes
  problems count_of not null,   -- objects that were missing or changed
  primary key (team_id, day)
);

-- The row says from when on the rotation may read more, so that a restart reads no faster.
create table rotation (
  single  boolean     primary key default true check (single),
  next_at timestamptz not null
);

-- Seconds that a restore of this repo takes: the median of its last five drills that passed. null: there is none.
create function repo_rto(its_id uuid) returns double precision language sql stable as $$
  select percentile_cont(0.5) within group (order by seconds) from (
    select seconds from drill where repo_id = its_id and cardinality(problems) = 0 order by finished_at desc, id desc limit 5
  ) as recent
$$;
