-- 002_repos.sql: who owns repositories, which are kept, and how each of them is doing.

-- A row is a team, the owner of repos. A repo's name is unique within its team.
create table team (
  id   uuid primary key default gen_random_uuid(),
  name text not null unique check (name <> '')
);

-- A row is one remote repository that is kept, from the moment somebody asked for it: it may have no snapshot
-- yet. The protected, failure and wish columns say how it is doing now; the past is in the other tables.
create table repo (
  id              uuid primary key,
  team_id         uuid not null references team,
  name            text not null check (name <> '' and octet_length(name) <= 500),
  url             text not null check (url <> '' and octet_length(url) <= 2000),
  object_format   object_format,        -- null: its remote was never seen
  created_at      timestamptz not null,
  protected_as_of timestamptz,          -- when the remote last said what is stored here; null: never
  failure_class   text,                 -- of the last run, in the words of mirror/errors.py; null: it went well
  failure_message text,
  failing_since   timestamptz,          -- the first failure since the last run that went well
  failed_at       timestamptz,          -- the newest failure
  wanted_at       timestamptz,          -- the newest wish that this repo be synced; null: nobody ever asked
  synced_at       timestamptz,          -- the newest wish that was served: a copy of that wanted_at, not a time of its own
  unique (team_id, name),
  unique (team_id, url),
  check (num_nulls(failure_class, failure_message, failing_since, failed_at) in (0, 4)),
  check (synced_at <= wanted_at)
);

-- A row is the user name and password, or token, with which a repo is fetched: sealed by mirror/keyring.py,
-- for this row and no other.
create table credential (
  repo_id uuid primary key references repo on delete cascade,
  sealed  bytea not null
);
