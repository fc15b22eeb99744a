-- mirror_targets.sql (which, the order and how many put in): repos at mirrors, with their mirrors. `behind_since` is when the first
-- kept snapshot was taken that is not there, or since when it could be there.
select
  mirror.*, target.id as target_id, target.repo_id as of_repo, repo.name as repo, target.url, target.newest, target.pushed, target.pushed_at,
  target.due_at, target.pushing_until, target.failing_since, target.failure_class, target.failure, target.failures,
  target.counts, target.refs, target.notes,
  (
    select greatest(taken_at, target.since) from snapshot
    where snapshot.repo_id = target.repo_id and number > target.pushed and target.pushed < target.newest order by number limit 1
  ) as behind_since
from mirror_target target
join mirror on mirror.id = target.mirror_id
join repo on repo.id = target.repo_id
where {which}
order by {order} limit {limit}
