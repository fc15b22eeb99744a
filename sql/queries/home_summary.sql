-- home_summary.sql($1 team_id): how many repos of a team are in which state, and the ends of the scale.
with kept as (
  select
    repo.name, repo.paused_at, repo.protected_as_of, repo.wanted_at, repo_state(repo) as state,
    repo.archived_at is null and (repo.failure_class is not null or repo.wanted_at is distinct from repo.synced_at) as late,
    (select taken_at from snapshot where snapshot.repo_id = repo.id order by taken_at desc limit 1) as saved_at
  from repo where repo.team_id = $1
)
select
  count(*) as total,
  count(*) filter (where state = 'protected') as protected,
  count(*) filter (where state = 'damaged') as damaged,
  count(*) filter (where state = 'behind') as behind,
  count(*) filter (where state = 'failing') as failing,
  count(*) filter (where state = 'never') as never,
  count(*) filter (where state = 'archived') as archived,
  count(*) filter (where state = 'protected' and paused_at is not null) as paused,
  max(saved_at) as saved_at,
  min(protected_as_of) filter (where late) as gap_since,
  (
    select count(*) from hook join repo on repo.id = hook.repo_id
    where repo.team_id = $1 and hook.state = 'missing' and repo.connection_id is not null
      and repo.archived_at is null and repo.paused_at is null
  ) as hooks_waiting,
  (array_agg(name order by protected_as_of) filter (where late and protected_as_of is not null))[1] as gap_of
from kept
