-- 131_team_drills.sql: drills of every repo of a team, each at its newest moment: what if the host were gone today?

-- A row is one such drill. It can be stopped, and go on; a team has one that is not finished at the most.
create table team_drill (
  id          uuid        primary key default gen_random_uuid(),
  team_id     uuid        not null references team on delete cascade,
  person_id   uuid        references person on delete set null,  -- who asked for it; null: whoever runs Everref
  attended    boolean     not null,   -- a command does it, and no worker
  asked_at    timestamptz not null,
  stopped_at  timestamptz,            -- null: it goes on
  finished_at timestamptz             -- null: repos are left
);
create unique index team_drill_open on team_drill (team_id) where finished_at is null;
create index team_drill_of_team on team_drill (team_id, asked_at);

-- A row is one of its repos: it waits, is at work as a job, or has ended in one of three ways.
create table team_drill_repo (
  drill_id uuid    not null references team_drill on delete cascade,
  repo_id  uuid    not null references repo on delete cascade,
  job_id   uuid,                       -- of the worker's job; null: not begun, or a command does it
  result   text check (result in ('passed', 'failed', 'undone')),  -- null: not ended; undone: it could not be made
  snapshot text,                       -- what was drilled, as people call it
  refs     count_of,
  bytes    count_of,
  seconds  double precision,
  problem  text,                       -- the first that was found, or why it could not be made
  ended_at timestamptz,
  primary key (drill_id, repo_id),
  check ((result is null) = (ended_at is null))
);
create index team_drill_left on team_drill_repo (drill_id) where result is null;
