-- 099_quick_lateness.sql: the same answers without a query for each repo, as home asks them of every repo of a team.

create or replace function checked_by(repo) returns timestamptz language sql stable as $$
  select $1.protected_as_of + interval '1 hour' + case
    when $1.schedule ~ '^[0-9]{1,6}[mhd]$' then $1.schedule::interval * 1.5
    when $1.schedule is not null then coalesce($1.cron_gap, interval '31 days')
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '24 days' then interval '36 hours'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '12 days' then interval '18 hours'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '4 days' then interval '6 hours'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '1 day' then interval '90 minutes'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '6 hours' then interval '22 minutes 30 seconds'
    else interval '7 minutes 30 seconds'
  end
$$;

-- Whether a push has waited for ten minutes and nobody is at it: what only waits for its turn is not late.
create function waits_too_long(repo, at timestamptz) returns boolean language sql stable as $$
  select $1.behind_since < $2 - interval '10 minutes' and not exists (
    select from job where job.repo_id = $1.id and job.kind = 'sync' and job.state = 'running'
  )
$$;

-- As in 097; a query of its own stands apart, so that PostgreSQL writes the rest into the queries that ask.
create or replace function is_late(repo, at timestamptz) returns boolean language sql stable as $$
  select case
    when $1.wanted_at is distinct from $1.synced_at then waits_too_long($1, $2)
    else checked_by($1) < $2
  end
$$;
