-- leaving.sql($1 repo_id, $2 upto, $3 limit): the moves up to this snapshot that can have left commits behind, newest first.
select move.snapshot, snapshot.taken_at, ref.name, move.old, move.new, move.kind, move.pushed_by, move.pushed_at
from (
  select * from ref_change
  where repo_id = $1 and snapshot <= $2
    and old is not null and kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea
  order by repo_id desc, snapshot desc, position desc
  limit $3
) move
join ref on ref.id = move.ref_id
join snapshot on snapshot.repo_id = $1 and snapshot.number = move.snapshot
order by move.snapshot desc, move.position desc
