-- held_at.sql($1 repo_id, $2 snapshot): every object id that a ref pointed at then, once.
select distinct stay.target
from ref
cross join lateral (
  select target, last_snapshot from ref_stay
  where ref_id = ref.id and first_snapshot <= $2
  order by first_snapshot desc
  limit 1
) stay
where ref.repo_id = $1 and (stay.last_snapshot is null or stay.last_snapshot >= $2)
  and substring(stay.target from 1 for 5) <> 'ref: '::bytea
