-- 065_quotas.sql: what one team may have and do; the names, and what goes for a team without a row, are in mirror/quotas.py.

-- A row is a limit that whoever runs Everref set for one team, instead of what goes for all.
create table team_limit (
  team_id uuid        not null references team on delete cascade,
  name    text        not null check (name ~ '^[a-z]+(-[a-z]+)*$'),
  most    count_of,                      -- null: as much as there is
  set_at  timestamptz not null,
  primary key (team_id, name)
);

-- A row is a team of which nothing new is saved, as that would take more of the vault than it may have: from the first sync
-- that met that until one brought something again, or its limit was raised.
create table team_over (
  team_id uuid        primary key references team on delete cascade,
  since   timestamptz not null,
  message text        not null
);

-- How large the bundle is that is about to be stored: it counts as stored from then on, so that syncs which end at the same
-- time do not take the same room. 0: not known yet.
alter table intent add column bytes count_of not null default 0;

-- What counts the jobs of a team.
create index job_open_of_team on job (team_id) where state in ('queued', 'running');

-- The team whose invitation an account was made by; null: by none. Its owner may let that person in again.
-- No foreign key: a rebuild brings people back before teams.
alter table person add column invited_to uuid;
