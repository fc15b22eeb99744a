-- 087_causes.sql: why repos are not saved, one cause at a time, and what somebody has settled.

-- A token that its forge refuses saves nothing, also where no run has met that yet: what the connection knows is known of
-- its repos at once. Both columns follow the connection's state by the triggers below.
alter table connection
  add column refused_at timestamptz;      -- since when its forge refuses the token; null: it works
alter table repo
  add column refused_at timestamptz;      -- since when its connection's token is refused; null: it is not, or it has none

create function connection_refused() returns trigger language plpgsql as $$
begin
  new.refused_at := case when new.state <> 'works' then coalesce(new.refused_at, now()) end;
  return new;
end $$;
create trigger connection_refused before insert or update on connection
  for each row execute function connection_refused();

create function repos_refused() returns trigger language plpgsql as $$
begin
  update repo set
    refused_at = new.refused_at,
    look_at = case when new.refused_at is not null then look_at end  -- what came meanwhile is found at once
  where connection_id = new.id;
  return null;
end $$;
create trigger repos_refused after update on connection
  for each row when (old.refused_at is distinct from new.refused_at) execute function repos_refused();

create function repo_refused() returns trigger language plpgsql as $$
begin
  new.refused_at := (select refused_at from connection where id = new.connection_id);
  return new;
end $$;
create trigger repo_refused before insert or update of connection_id on repo
  for each row execute function repo_refused();

-- When it began is known by the first repo that failed for it, or not at all.
update connection set refused_at = coalesce(
  (select min(failing_since) from repo where connection_id = connection.id and failure_class = 'credentials'), now()
) where state <> 'works';

-- The first of these that is true.
-- damaged: what is kept of it was found broken in the vault; whatever else is true of it, not all of it can be restored.
-- archived: it is gone at its forge; what is kept stays.
-- never: no run ever protected it; its first backup may be under way, or have failed.
-- paused: somebody paused it; it is protected as of an earlier time.
-- failing: it is protected as of an earlier time, and the last run failed, or the next one will: its token is refused.
-- behind: the last run went well, and somebody has asked for another since.
-- protected: what its remote said when last asked is stored.
create or replace function repo_state(repo) returns text language sql stable as $$
  select case
    when $1.damaged_at is not null then 'damaged'
    when $1.archived_at is not null then 'archived'
    when $1.protected_as_of is null then 'never'
    when $1.paused_at is not null then 'paused'
    when $1.failure_class is not null or $1.refused_at is not null then 'failing'
    when $1.wanted_at is distinct from $1.synced_at then 'behind'
    else 'protected'
  end
$$;

-- Whether a push has waited for ten minutes and nobody is at it: what only waits for its turn is not late.
create function is_late(repo, at timestamptz) returns boolean language sql stable as $$
  select $1.behind_since < $2 - interval '10 minutes' and not exists (
    select from job where job.repo_id = $1.id and job.kind = 'sync' and job.state = 'running'
  )
$$;

-- A row is a need that somebody settled at the home page: who, when, and in which words it was shown.
create table settled (
  id         bigint      primary key generated always as identity,
  team_id    uuid        not null references team on delete cascade,
  kind       text        not null check (kind in ('forced', 'archived', 'hook', 'notice')),
  repo_id    uuid        references repo on delete cascade,  -- null: it is about no single repo
  snapshot   snapshot_number,                                -- forced: up to this one; null: it has no meaning
  subject    text        not null,                           -- what it was about, in a line
  person_id  uuid        references person on delete set null,
  at         timestamptz not null
);
create index settled_of_team on settled (team_id, at);
create index settled_of_repo on settled (repo_id) where repo_id is not null;

-- The repos of a team that need somebody, each with its cause and since when. Causes are
-- damage; token:ID of the connection; CLASS:HOST of the error; late; archived (for 30 days); hook:HOST.
create function troubled(team uuid, at timestamptz)
returns table (repo_id uuid, cause text, name text, since timestamptz, detail text, unsaved boolean)
language sql stable as $$
  with mine as (
    select
      repo.*, repo_state(repo) as state,
      case when behind_since < $2 - interval '10 minutes' then is_late(repo, $2) else false end as late
    from repo where team_id = $1
  ), found as (
    select mine.*, case
      when damaged_at is not null then 'damage'
      when archived_at is not null then case when archived_at > $2 - interval '30 days' then 'archived' end
      when paused_at is not null then null
      when refused_at is not null then 'token:' || connection_id
      when failure_class is not null then failure_class || ':' || coalesce(host, '')
      when state in ('behind', 'never') and late then 'late'
    end as cause
    from mine
    where damaged_at is not null or archived_at is not null or refused_at is not null or failure_class is not null
      or behind_since is not null
  )
  select
    id, cause, name,
    case
      when cause = 'damage' then damaged_at
      when cause = 'archived' then archived_at
      when cause = 'late' then behind_since
      when cause like 'token:%' then refused_at
      else failing_since
    end,
    case
      when cause = 'damage' then damage
      when cause in ('archived', 'late') then url
      else failure_message
    end,
    protected_as_of is null
  from found
  where cause is not null and not (cause = 'archived' and exists (
    select from settled where settled.repo_id = found.id and kind = 'archived' and settled.at >= archived_at
  ))
  union all
  select repo.id, 'hook:' || coalesce(repo.host, hook.forge), repo.name, null, hook.why, false
  from hook join repo on repo.id = hook.repo_id
  where repo.team_id = $1 and hook.state in ('disabled', 'refused') and repo.archived_at is null and repo.paused_at is null
    and not exists (select from settled where settled.repo_id = repo.id and kind = 'hook')
$$;

-- Whether this restore stands and went to the repository that it came from.
create function is_own(back restore, repo) returns boolean language sql stable as $$
  select back.undo_of is null and (back.target->>'kept' = $2.id::text or back.target->>'to' = $2.url)
    and not exists (select from restore undone where undone.undo_of = back.job_id and undone.verified)
$$;

-- Whether a branch has the name that a restore gives to another one which it brings back: restored/main-1118 of main.
create function brings_back(name bytea, branch bytea) returns boolean language sql immutable as $$
  select starts_with(encode($1, 'escape'), 'refs/heads/restored/' || encode(substring($2 from 12), 'escape') || '-')
$$;
