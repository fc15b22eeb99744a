-- ever_refs.sql($1 repo_id, $2 upto, $3 after name, $4 LIKE patterns or null, $5 limit): every ref there was up to this snapshot, in name order, with its last target and the last snapshot that had it.
select ref.name, stay.target, case when stay.last_snapshot < $2 then stay.last_snapshot end as last
from ref
cross join lateral (
  select target, last_snapshot from ref_stay
  where ref_id = ref.id and first_snapshot <= $2
  order by first_snapshot desc
  limit 1
) stay
where ref.repo_id = $1
  and substring(ref.name from 1 for 200) >= substring($3::bytea from 1 for 200) and ref.name > $3::bytea
  and ($4::bytea[] is null or ref.name like any ($4))
order by substring(ref.name from 1 for 200), ref.name
limit $5
