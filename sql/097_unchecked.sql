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
