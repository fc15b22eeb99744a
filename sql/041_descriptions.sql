-- 041_descriptions.sql: how far the vault knows what a repo is, and what was proved or lost.

-- What the vault's description of a repo says, as jsonb: of the same, the same text. Times are text in UTC, whatever the
-- session's zone is. What is added here has every repo described anew, once.
create function repo_description(repo) returns jsonb language sql stable as $$
  select jsonb_build_object(
    'name', $1.name,
    'url', $1.url,
    'object_format', $1.object_format,
    'team', $1.team_id,
    'team_name', (select name from team where id = $1.team_id),
    'created_at', to_char($1.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'forge', $1.forge,
    'host', $1.host,
    'repository_id', $1.repository_id,
    'private', $1.private,
    'paused_at', to_char($1.paused_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'archived_at', to_char($1.archived_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'schedule', $1.schedule,
    'excluded', $1.excluded
  )
$$;
alter table repo
  add column described    text,  -- md5 of what the vault's newest description says; null: not known
  add column descriptions int not null default 0 check (descriptions >= 0);  -- the number of that one; 0: it is repo.json

-- Whether a note for the vault was made of a row.
alter table lost_push add column noted boolean not null default false;
alter table drill     add column noted boolean not null default false;
create index lost_push_to_note on lost_push (repo_id) where not noted;
create index drill_to_note on drill (repo_id) where not noted;
