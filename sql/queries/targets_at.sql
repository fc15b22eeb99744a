-- targets_at.sql($1 repo_id, $2 names, $3 snapshot): these refs as they were then; what was not there is left out.
select ref.name, stay.target
from unnest($2::bytea[]) given (name)
join ref on ref.repo_id = $1 and sha256(ref.name) = sha256(given.name)
cross join lateral (
  select target, last_snapshot from ref_stay
  where ref_id = ref.id and first_snapshot <= $3
  order by first_snapshot desc
  limit 1
) stay
where stay.last_snapshot is null or stay.last_snapshot >= $3
