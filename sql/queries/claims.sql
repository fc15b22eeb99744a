-- claims.sql($1 repo_id, $2 limit): the claims of deliveries that no sync has answered, in the order of arrival; not
-- those of a hook that turned out to be another repository's.
select
  claim.delivery_id, claim.position, claim.name, claim.before, claim.after, claim.pushed_by,
  least(claim.pushed_at, delivery.received_at) as pushed_at,
  case when claim.pushed_at <= delivery.received_at then claim.pushed_at end as told_at  -- else its clock is wrong
from claim
join delivery on delivery.id = claim.delivery_id
join hook on hook.id = delivery.hook_id
join repo on repo.id = hook.repo_id
where claim.open and repo.id = $1 and coalesce(hook.repository_id = repo.repository_id, true)
order by claim.delivery_id, claim.position
limit $2
