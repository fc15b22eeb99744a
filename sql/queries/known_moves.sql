-- known_moves.sql($1 repo_id, then arrays: $2 names, $3 old targets, $4 new targets): the places of those moves that
-- the history has: a stay that began where another of the same ref ended.
select given.position::int
from unnest($2::bytea[], $3::bytea[], $4::bytea[]) with ordinality as given (name, old, new, position)
join ref on ref.repo_id = $1 and sha256(ref.name) = sha256(given.name)
where case
  when given.new is null then exists (
    select from ref_stay gone
    where gone.ref_id = ref.id and gone.target = given.old and not exists (
      select from ref_stay after where after.ref_id = ref.id and after.first_snapshot = gone.last_snapshot + 1
    ) and gone.last_snapshot is not null
  )
  else exists (
    select from ref_stay came
    left join ref_stay before on before.ref_id = came.ref_id and before.last_snapshot = came.first_snapshot - 1
    where came.ref_id = ref.id and came.target = given.new and before.target is not distinct from given.old
  )
end
