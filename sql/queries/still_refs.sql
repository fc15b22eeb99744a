-- still_refs.sql($1 repo_id, then arrays: $2 names, $3 times): between which two looks these times surely were, for those of the
-- refs that both looks found at the same place (null: nowhere) with no move between them. A forge's times are in whole seconds.
select distinct given.name, found.number as snapshot, before.taken_at as since, found.taken_at as until, stay.target
from unnest($2::bytea[], $3::timestamptz[]) given (name, at)
cross join lateral (
  select number, taken_at from snapshot
  where repo_id = $1 and taken_at >= given.at + interval '1 second' and number > 1
  order by taken_at, number
  limit 1
) found
join snapshot before on before.repo_id = $1 and before.number = found.number - 1 and before.taken_at <= given.at
left join ref on ref.repo_id = $1 and sha256(ref.name) = sha256(given.name)
left join lateral (
  select target from ref_stay
  where ref_id = ref.id and first_snapshot <= found.number and (last_snapshot is null or last_snapshot >= found.number)
) stay on true
where not exists (select from ref_change move where move.ref_id = ref.id and move.snapshot = found.number)
order by given.name, found.number
