-- home_summary.sql($1 team_id, $2 now): how many repos of a team are in which state, and the ends of the scale. `news` changes whenever a need comes or is settled.
with kept as materialized (
  select
    repo.name, repo.protected_as_of, repo_state(repo, $2) as state,
    repo.archived_at is null and repo.paused_at is null
      and (repo.failure_class is not null or repo.refused_at is not null or repo.wanted_at is distinct from repo.synced_at
        or is_late(repo, $2)) as gap,
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
  count(*) filter (where state = 'paused') as paused,
  count(*) filter (where state = 'archived') as archived,
  count(*) filter (where state = 'late') as late,
  max(saved_at) as saved_at,
  min(protected_as_of) filter (where gap) as gap_since,
  (
    select count(*) from hook join repo on repo.id = hook.repo_id
    where repo.team_id = $1 and hook.state = 'missing' and repo.connection_id is not null
      and repo.archived_at is null and repo.paused_at is null
  ) as hooks_waiting,
  (array_agg(name order by protected_as_of) filter (where gap and protected_as_of is not null))[1] as gap_of,
  (
    select coalesce(max(id), 0) from settled where team_id = $1
  ) || '.' || (
    select count(*) || '.' || coalesce(max(id), 0) from notice where team_id = $1 and seen_at is null
  ) as news
from kept
