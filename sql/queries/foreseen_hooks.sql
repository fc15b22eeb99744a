-- foreseen_hooks.sql: webhooks that should work, with the snapshots since their last delivery that only a check found.
select repo.team_id, repo.id, repo.name, began.at as since, missed.times
from hook join repo on repo.id = hook.repo_id
cross join lateral (
  select coalesce(
    delivered_at, (select max(received_at) from delivery where hook_id = hook.id), hook.created_at
  ) as at
) began
cross join lateral (
  select array_agg(taken_at order by taken_at) as times from snapshot
  where snapshot.repo_id = repo.id and taken_at > began.at and changes_count > 0 and reason = 'sweep'
) missed
where hook.state in ('given', 'registered') and repo.archived_at is null and repo.paused_at is null
  and missed.times is not null
