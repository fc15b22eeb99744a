-- 012_jobs.sql: what is being worked on, and what was.

-- A row is a piece of work on a repo that somebody can watch: queued, running, then done, failed or cancelled. It is
-- a record; whose turn it is says the lease, and what is due says the wish.
create table job (
  id          uuid primary key default gen_random_uuid(),
  repo_id     uuid not null references repo on delete cascade,
  team_id     uuid not null references team on delete cascade,
  kind        text not null check (kind in ('sync', 'restore', 'drill', 'verify', 'bundle', 'compact')),
  asked       jsonb not null default '{}',        -- what was asked, without secrets
  sealed      bytea,                              -- credentials used once, sealed for this row; gone when it ends
  person_id   uuid references person on delete set null,  -- null: Everref itself
  state       text not null check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
  queued_at   timestamptz not null,
  started_at  timestamptz,
  beat_at     timestamptz,                        -- of the run at work, by this database's clock
  finished_at timestamptz,
  phase       text,                               -- in the words shown to the person waiting
  done        count_of,                           -- of the phase, in its unit
  total       count_of,
  unit        text,
  bytes       count_of not null default 0,
  phases      jsonb not null default '[]',        -- [{"phase", "seconds", "bytes"}], as they ended
  notes       text[] not null default '{}',       -- lines worth keeping, the last 200
  result      jsonb,                              -- what came of it
  failure_class   text,
  failure_message text,
  cancel_at   timestamptz,                        -- somebody asked it to stop
  check ((state in ('done', 'failed', 'cancelled')) = (finished_at is not null))
);
create index job_of_repo on job (repo_id, queued_at);
create index job_of_team on job (team_id, queued_at);
create index job_open on job (state, queued_at) where state in ('queued', 'running');
