-- known_moves.sql($1 repo_id, then arrays: $2 names, $3 old targets, $4 new targets, $5 times): the places of those moves that
-- the history has: of that very time, where one is given.
select given.position::int
from unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::timestamptz[]) with ordinality as given (name, old, new, at, position)
join ref on ref.repo_id = $1 and sha256(ref.name) = sha256(given.name)
where exists (
  select from ref_change move
  where move.ref_id = ref.id and move.old is not distinct from given.old and move.new is not distinct from given.new
    and (given.at is null or move.pushed_at = given.at)
)
