-- claims.sql($1 repo_id, $2 since): for each move of a ref that a delivery claimed since then, who made it and when, by the newest claim.
select distinct on (claim.name, claim.after)
  claim.name, claim.after, claim.pushed_by, least(claim.pushed_at, delivery.received_at) as pushed_at
from hook
join delivery on delivery.hook_id = hook.id
join claim on claim.delivery_id = delivery.id
where hook.repo_id = $1 and delivery.received_at >= $2
order by claim.name, claim.after, delivery.id desc, claim.position desc
