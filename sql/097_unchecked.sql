-- 097_unchecked.sql: repos that nothing checks although their schedule asks for it are late, whatever they last said.

alter table repo
  add column cron_gap interval;  -- of a schedule that is a cron expression: the longest time between two checks; null: no such schedule, or not known

-- By when a repo that is looked after is checked again at the latest: after one and a half of its periods, as a check may be skipped
-- where the period has just changed, and an hour of grace for restarts and hosts that want to be left alone. The periods by
-- activity are those of mirror/core/rules/schedule.py as they were at the last check. Null: it was never checked.
create function checked_by(repo) returns timestamptz language sql stable as $$
  select $1.protected_as_of + interval '1 hour' + case
    when $1.schedule ~ '^[0-9]{1,6}[mhd]$' then $1.schedule::interval * 1.5
    when $1.schedule is not null then coalesce($1.cron_gap, interval '31 days')
    else 1.5 * (
      select coalesce(max(step), interval '5 minutes')
      from unnest('{15 minutes, 1 hour, 4 hours, 12 hours, 1 day}'::interval[]) as step
      where step * 24 <= $1.protected_as_of - coalesce($1.changed_at, $1.created_at)
    )
  end
$$;

-- Whether what a repo has is older than it should be: a push has waited for ten minutes and nobody is at it (what only waits for
-- its turn is not late); or nobody waits, and its next check is overdue. A null moment: nobody asks.
create or replace function is_late(repo, at timestamptz) returns boolean language sql stable as $$
  select case
    when $1.wanted_at is distinct from $1.synced_at then
      $1.behind_since < $2 - interval '10 minutes' and not exists (
        select from job where job.repo_id = $1.id and job.kind = 'sync' and job.state = 'running'
      )
    else checked_by($1) < $2
  end
$$;

-- How a repo is doing at a moment: the first of these that is true.
-- damaged: what is held of it was found broken in the vault; whatever else is true of it, not all of it can be restored.
-- archived: it is gone at its host; its backups stay.
-- never: no run ever protected it; its first backup may be under way, or have failed.
-- paused: somebody paused it; it is protected as of an earlier time.
-- failing: it is protected as of an earlier time, and the last run failed, or the next one will: its token is refused.
-- late: it is protected as of an earlier time, and nobody saves its pushes, or checks it when its schedule says so (is_late).
-- behind: the last run went well, and somebody has asked for another since.
-- protected: what its remote said when last asked is stored.
create function repo_state(repo, at timestamptz) returns text language sql stable as $$
  select case
    when $1.damaged_at is not null then 'damaged'
    when $1.archived_at is not null then 'archived'
    when $1.protected_as_of is null then 'never'
    when $1.paused_at is not null then 'paused'
    when $1.failure_class is not null or $1.refused_at is not null then 'failing'
    when is_late($1, $2) then 'late'
    when $1.wanted_at is distinct from $1.synced_at then 'behind'
    else 'protected'
  end
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
    and not exists (select from settled where settled.repo_id = repo.id and kind = 'hook')
$$;

drop function repo_state(repo);
