-- gone_refs.sql($1 repo_id, $2 upto, $3 before snapshot, $4 and position, $5 LIKE patterns or null, $6 limit): the refs whose last move up to this snapshot deleted them, newest first.
-- stood: whether the snapshot before still had it; else it came and went within one.
select
  ref.name, move.snapshot, move.position, move.old, move.pushed_by, snapshot.taken_at, move.pushed_at,
  exists (
    select from ref_stay
    where ref_id = move.ref_id and first_snapshot < move.snapshot and last_snapshot = move.snapshot - 1
  ) as stood
from (
  select move.*
  from ref_change move
  join ref on ref.id = move.ref_id
  where move.repo_id = $1 and move.snapshot <= $2 and (move.snapshot, move.position) < ($3, $4)
    and move.old is not null and move.kind <> 'fast-forwarded' and substring(move.old from 1 for 5) <> 'ref: '::bytea
    and move.kind = 'deleted'
    and ($5::bytea[] is null or ref.name like any ($5))
    and not exists (
      select from ref_change later
      where later.ref_id = move.ref_id and later.snapshot <= $2
        and (later.snapshot, later.position) > (move.snapshot, move.position)
    )
  order by move.repo_id desc, move.snapshot desc, move.position desc
  limit $6
) move
join ref on ref.id = move.ref_id
join snapshot on snapshot.repo_id = $1 and snapshot.number = move.snapshot
order by move.snapshot desc, move.position desc
