-- 098_broken_again.sql: a webhook that breaks again after it worked is a new need, whatever was settled before; and a branch
-- that a restore brought back stands for the branch it is named after, not for one whose name begins alike.

alter table hook
  add column broken_at timestamptz;  -- since when its host refuses it or has switched it off; null: it does not, or it is not known

create function hook_broken() returns trigger language plpgsql as $$
begin
  new.broken_at := case
    when new.state in ('disabled', 'refused') then
      case when old.state in ('disabled', 'refused') then old.broken_at else coalesce(new.checked_at, now()) end
  end;
  return new;
end $$;
create trigger hook_broken before update of state on hook for each row execute function hook_broken();

-- Whether what somebody settled of a repo's webhook is about how it is broken now.
create function hook_settled(hook) returns boolean language sql stable as $$
  select exists (
    select from settled
    where settled.repo_id = $1.repo_id and kind = 'hook' and settled.at >= coalesce($1.broken_at, '-infinity')
  )
$$;

-- Whether a branch has the name that a restore gives to another one which it brings back: of main, restored/main-1118-0910,
-- the same with -2, or restored/main-20261118-091000; restored/main-1118 as it was called before.
create or replace function brings_back(name bytea, branch bytea) returns boolean language sql immutable as $$
  select starts_with(encode($1, 'escape'), asked.start)
    and substr(encode($1, 'escape'), length(asked.start) + 1) ~ '^([0-9]{4}|[0-9]{4}-[0-9]{4}|[0-9]{8}-[0-9]{6})(-[0-9]{1,2})?$'
  from (select 'refs/heads/restored/' || encode(substring($2 from 12), 'escape') || '-' as start) asked
$$;

-- The repos of a team that need somebody, each with its cause and since when. Causes are damage; token:ID of the connection;
-- CLASS:HOST of the error; late (a push waits); unchecked (nobody looks); archived (for 30 days); hook:HOST.
create or replace function troubled(team uuid, at timestamptz)
returns table (repo_id uuid, cause text, name text, since timestamptz, detail text, unsaved boolean)
language sql stable as $$
  with found as (
    select repo.*, case
      when damaged_at is not null then 'damage'
      when archived_at is not null then case when archived_at > $2 - interval '30 days' then 'archived' end
      when paused_at is not null then null
      when refused_at is not null then 'token:' || connection_id
      when failure_class is not null then failure_class || ':' || coalesce(host, '')
      when is_late(repo, $2) then case when wanted_at is distinct from synced_at then 'late' else 'unchecked' end
    end as cause
    from repo where team_id = $1
  )
  select
    id, cause, name,
    case
      when cause = 'damage' then damaged_at
      when cause = 'archived' then archived_at
      when cause = 'late' then behind_since
      when cause = 'unchecked' then protected_as_of
      when cause like 'token:%' then refused_at
      else failing_since
    end,
    case
      when cause = 'damage' then damage
      when cause in ('archived', 'late', 'unchecked') then url
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
    and not hook_settled(hook)
$$;

drop function repo_state(repo);
