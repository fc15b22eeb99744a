-- 266_mirrors.sql: mirrors: remotes at other hosts that every new snapshot is pushed to.

-- A row is what somebody wants: that a repo, or every repo of a team, also lives at another address. Pushes to it never hold up
-- backups, and nothing of a mirror changes how a repo is doing.
create table mirror (
  id            uuid        primary key,
  team_id       uuid        not null references team on delete cascade,
  repo_id       uuid        references repo on delete cascade,        -- null: every repo of the team
  address       text        not null check (octet_length(address) between 1 and 2000),  -- without credentials; a team's has {name}
  connection_id uuid        references connection on delete set null, -- whose token pushes; null: none
  makes         jsonb,                                                -- under which owner the host makes what is missing; null: nothing is made
  sealed        bytea,                                                -- credentials of its own; null: none
  deletes       boolean     not null default false,                   -- what was deleted at the source is deleted there too
  overwrites    boolean     not null default false,                   -- what others changed there is overwritten, once it is backed up
  left_out      uuid[]      not null default '{}',                    -- repos of the team that it leaves out
  paused_at     timestamptz,                                          -- null: it is at work
  created_at    timestamptz not null,
  created_by    text        not null
);
create unique index mirror_of_repo on mirror (repo_id, address) where repo_id is not null;
create unique index mirror_of_team on mirror (team_id, address) where repo_id is null;
create index mirror_by_team on mirror (team_id);

-- A row is one repo at one mirror: where it is pushed, how far it is, and when it is pushed next. It follows from its mirror, so
-- that a lost row is made again, and all is compared with what is there.
create table mirror_target (
  id            uuid        primary key default gen_random_uuid(),
  mirror_id     uuid        not null references mirror on delete cascade,
  repo_id       uuid        not null references repo on delete cascade,
  number        bigint      not null generated always as identity,  -- of two at one place the first has it
  url           text        not null,              -- fixed when the row is made: a repo that is renamed keeps it
  place         text        not null,              -- the same for every way to write that address
  newest        int         not null default 0,    -- the repo's latest snapshot
  pushed        int         not null default 0,    -- the snapshot that was pushed last; 0: none
  pushed_at     timestamptz,
  due_at        timestamptz,                       -- when it is pushed or looked at next; null: when something changes
  attempt       int         not null default 0,    -- of pushing; who has an older one counts for nothing
  pushing_until timestamptz,                       -- somebody pushes; null, or past: nobody does
  failures      int         not null default 0,    -- in a row
  failure_class text,
  failure       text,
  failing_since timestamptz,
  counts        jsonb       not null default '{}', -- how many refs came to what, in the last push
  refs          jsonb       not null default '[]', -- those that are not there as they should be, the first ones
  notes         jsonb       not null default '[]', -- what else there is to say of that push
  unique (mirror_id, repo_id),
  check (num_nulls(failure_class, failure, failing_since) in (0, 3))
);
create index mirror_target_of_repo on mirror_target (repo_id);
create index mirror_target_place on mirror_target (place);
create index mirror_target_due on mirror_target (due_at) where due_at is not null;

-- A row is a push that wrote something or failed; the newest ones of each target are kept.
create table mirror_push (
  id          bigint      primary key generated always as identity,
  target_id   uuid        not null references mirror_target on delete cascade,
  snapshot    int         not null,
  began_at    timestamptz not null,
  ended_at    timestamptz not null,
  counts      jsonb       not null,
  failure     text                                 -- null: it came to its end
);
create index mirror_push_of_target on mirror_push (target_id, id);

-- A new snapshot is due at every mirror of its repo, in the transaction that records it: with Redis, or a worker, lost at any
-- moment nothing is forgotten. One that fails waits for its next try; one whose credentials are refused waits for others.
create function mirrors_are_due() returns trigger language plpgsql as $$
begin
  update mirror_target set
    newest = greatest(newest, new.number),
    due_at = case when failures > 0 then due_at else new.taken_at end
  where repo_id = new.repo_id;
  return null;
end $$;
create trigger mirrors_are_due after insert on snapshot for each row execute function mirrors_are_due();

-- A connection has another token: mirrors whose credentials were refused are tried with it.
create function mirrors_have_credentials() returns trigger language plpgsql as $$
begin
  update mirror_target set due_at = failing_since from mirror
  where mirror.id = mirror_id and connection_id = new.id and failure_class = 'credentials' and due_at is null;
  return null;
end $$;
create trigger mirrors_have_credentials after update of version on connection for each row
  when (old.version <> new.version) execute function mirrors_have_credentials();
create index mirror_of_connection on mirror (connection_id) where connection_id is not null;

-- What is counted may be more by now than the first list said.
alter table counted drop constraint counted_what_check;
alter table counted add constraint counted_what_check check (what <> '');

create function count_mirror_push() returns trigger language plpgsql as $$
begin
  insert into counted (what, outcome, seconds)
  values (
    'mirror', case when new.failure is null then 'done' else 'failed' end,
    greatest(extract(epoch from new.ended_at - new.began_at)::double precision, 0)
  );
  return null;
end $$;
create trigger count_mirror_push after insert on mirror_push for each row execute function count_mirror_push();
