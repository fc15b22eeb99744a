-- 171_keeping.sql: what is kept for how long: retention policies, snapshots that people keep, legal holds, readers of the vault.

-- A row is a retention policy: of a team, or of one of its repos, which then has its own. Where there is none, everything is kept for
-- ever. A snapshot stays if any of the numbers keeps it; null and 0 keep none.
create table retention_policy (
  id        uuid        primary key default gen_random_uuid(),
  team_id   uuid        not null references team on delete cascade,
  repo_id   uuid        references repo on delete cascade,   -- null: of all repos of the team that have none of their own
  keep_last int         check (keep_last >= 0),  -- the newest n snapshots
  days      int         check (days >= 0),       -- everything of the last n days
  daily     int         check (daily >= 0),      -- the last of each of the last n days that have one, likewise below
  weekly    int         check (weekly >= 0),
  monthly   int         check (monthly >= 0),
  yearly    int         check (yearly >= 0),
  for_ever  boolean     not null default false,  -- it keeps everything: a repo of a team with a policy
  set_by    text        not null,                -- who set it, by the name of then
  set_at    timestamptz not null
);
create unique index retention_policy_team on retention_policy (team_id) where repo_id is null;
create unique index retention_policy_repo on retention_policy (repo_id) where repo_id is not null;

-- A row is a snapshot that somebody keeps, whatever a policy says.
create table snapshot_pin (
  repo_id   uuid            not null references repo on delete cascade,
  snapshot  snapshot_number not null,
  note      text            not null,
  pinned_by text            not null,
  pinned_at timestamptz     not null,
  primary key (repo_id, snapshot)
);

-- A row is a legal hold: while it stands, nothing of the repo is dropped, deleted or erased.
create table repo_hold (
  id        uuid        primary key default gen_random_uuid(),
  repo_id   uuid        not null references repo on delete cascade,
  reason    text        not null,
  set_by    text        not null,
  set_at    timestamptz not null,
  lifted_by text,
  lifted_at timestamptz,  -- null: it stands
  check ((lifted_at is null) = (lifted_by is null))
);
create unique index repo_hold_stands on repo_hold (repo_id) where lifted_at is null;

-- A row is a run that reads parts of a repo from the vault: what it began with is not deleted before it ends, or has not been
-- heard of for a while.
create table vault_reader (
  id      uuid        primary key default gen_random_uuid(),
  repo_id uuid        not null references repo on delete cascade,
  owner   text        not null,                             -- its process; leases.is_over judges it
  since   timestamptz not null,                             -- by the clock that tombstones have
  beat_at timestamptz not null default clock_timestamp()    -- by this database's clock
);
create index vault_reader_of_repo on vault_reader (repo_id);
