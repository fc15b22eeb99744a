-- past_moves.sql($1 repo_id, $2 names, $3 moves of each): the latest moves of these refs, and between which two looks they were found.
select
  given.name, move.snapshot, coalesce(move.moment, 0) as moment, move.position, move.old, move.new, move.pushed_by, move.pushed_at,
  coalesce(before.taken_at, 'epoch') as since, coalesce(within.taken_at, snapshot.taken_at) as until
from unnest($2::bytea[]) given (name)
join ref on ref.repo_id = $1 and sha256(ref.name) = sha256(given.name)
cross join lateral (
  select * from ref_change
  where ref_id = ref.id
  order by snapshot desc, position desc
  limit $3
) move
join snapshot on snapshot.repo_id = $1 and snapshot.number = move.snapshot
left join snapshot before on before.repo_id = $1 and before.number = move.snapshot - 1
left join moment within on within.repo_id = $1 and within.snapshot = move.snapshot and within.number = move.moment
order by given.name, move.snapshot, move.position
