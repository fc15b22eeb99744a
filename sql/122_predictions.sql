-- 122_predictions.sql: what will soon fail, as the hourly look at the histories found it.

-- A row is one prediction of a team, for as long as the histories say so.
create table prediction (
  team_id  uuid        not null references team on delete cascade,
  kind     text        not null check (kind in ('credential', 'owner', 'hook', 'duration', 'quota', 'host')),
  subject  text        not null,      -- what it is about: a repo's name, an account, a host
  repo_id  uuid        references repo on delete cascade,  -- null: it is about no single repo
  title    text        not null,
  why      text        not null,      -- the evidence
  at       timestamptz,               -- when it will fail; null: at any time
  since    timestamptz not null,      -- when it was first foreseen
  primary key (team_id, kind, subject)
);
