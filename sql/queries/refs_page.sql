-- refs_page.sql($1 repo_id, $2 snapshot, $3 after this name, $4 LIKE patterns or null, $5 limit): refs as they were then, in name order.
-- Read along the index from the last page's end. A pattern of bytes may let more through than its glob; the caller looks again.
select ref.name, stay.target
from ref
cross join lateral (
  select target, last_snapshot from ref_stay
  where ref_id = ref.id and first_snapshot <= $2
  order by first_snapshot desc
  limit 1
) stay
where ref.repo_id = $1
  and substring(ref.name from 1 for 200) >= substring($3::bytea from 1 for 200) and ref.name > $3::bytea
  and (stay.last_snapshot is null or stay.last_snapshot >= $2)
  and ($4::bytea[] is null or ref.name like any($4))
order by substring(ref.name from 1 for 200), ref.name
limit $5
