-- 247_pushed_to.sql: repos without a remote, which people and programs push to.

-- Whether a repo has no remote: its address is `everref:` and its id (mirror/core/model.has_remote). There is nothing to ask: a push
-- ends only once it is saved, so all that was ever pushed is here.
create function is_pushed_to(repo) returns boolean language sql immutable as $$
  select starts_with($1.url, 'everref:')
$$;

-- As in 120. A repo without a remote is never overdue for a check.
create or replace function checked_by(repo) returns timestamptz language sql stable as $$
  select case when not is_pushed_to($1) then
    $1.protected_as_of + least($1.objective * 0.75 + least(interval '1 hour', $1.objective / 4), interval '1 hour' + case
      when $1.schedule ~ '^[0-9]{1,6}[mhd]$' then $1.schedule::interval * 1.5
      when $1.schedule is not null then coalesce($1.cron_gap, interval '31 days')
      when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '24 days' then interval '36 hours'
      when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '12 days' then interval '18 hours'
      when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '4 days' then interval '6 hours'
      when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '1 day' then interval '90 minutes'
      when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '6 hours' then interval '22 minutes 30 seconds'
      else interval '7 minutes 30 seconds'
    end)
  end
$$;

-- As in 120. Of a repo without a remote, only a push that waits is not saved yet. Null: all of it is.
create or replace function unsaved_since(repo) returns timestamptz language sql stable as $$
  select least(
    case when not is_pushed_to($1) then coalesce($1.protected_as_of, $1.created_at) end,
    case when $1.wanted_at is distinct from $1.synced_at then $1.behind_since end
  )
$$;

-- As in 150.
create or replace function is_outside_rpo(repo, at timestamptz) returns boolean language sql stable as $$
  select $1.archived_at is null and $1.paused_at is null and (
    $1.damaged_at is not null
    or coalesce(unsaved_since($1) < $2 - repo_rpo($1) or unsaved_since($1) > $2 + interval '1 hour', false)
  )
$$;
