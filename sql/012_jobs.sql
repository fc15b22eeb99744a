-- 012_jobs.sql: what is being worked on, and what was.

-- A row is a piece of work on a repo that somebody can watch: queued, running, then done, failed or cancelled. It is
-- a record; whose turn it is says the lease, and what is due says the wish. A sync that found nothing has no row.
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
  due_at      timestamptz,                        -- not to be started before then; null: at once
  attempt     int not null default 0,             -- how often it was started; a run that lost its job has an older one
  started_at  timestamptz,                        -- the last time
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
  check ((state in ('done', 'failed', 'cancelled')) = (finished_at is not null)),
  check (sealed is null or finished_at is null),
  check (num_nulls(failure_class, failure_message) in (0, 2)),
  check ((state = 'failed') = (failure_class is not null))
);
create index job_of_repo on job (repo_id, queued_at);
create index job_of_team on job (team_id, queued_at);
create index job_open on job (repo_id, kind) where state in ('queued', 'running');
-- What brings a repo up to date waits once: asked again, it is the same job.
create unique index job_once on job (repo_id, kind) where kind in ('sync', 'compact') and state = 'queued';

-- A row is a worker process at work, or one that was a moment ago. Repos are shared out among those that are alive.
create table worker (
  id      text primary key,                       -- machine, process and a word, as the owner of a lease
  beat_at timestamptz not null                    -- by this database's clock
);

-- A row is a run: what a worker has taken up and not ended yet, a job or the wish of a repo. It goes with the worker.
create table run (
  key      uuid primary key,                      -- of the job, or of the repo whose wish is served
  repo_id  uuid not null references repo on delete cascade,
  team_id  uuid not null,
  job_id   uuid references job on delete cascade, -- null: nobody watches
  kind     text not null,
  host     text,                                  -- that is asked for objects; null: none
  heavy    boolean not null,                      -- it may take long
  worker   text not null,
  began_at timestamptz not null
);
create index run_of_repo on run (repo_id);
create index run_of_job on run (job_id) where job_id is not null;
create index run_of_worker on run (worker);

-- A row is a chore of the sweep: done by one worker for all of them.
create table chore (
  name     text primary key,
  begun_at timestamptz not null                   -- the last time
);
