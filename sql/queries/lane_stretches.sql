-- lane_stretches.sql($1 repo_id, $2 ref ids, $3 first snapshot, $4 last, $5 start, $6 end, $7 where each stretch begins): what each ref did in each stretch of a window.
select
  ref_id, stretch, count(*) as moves,
  (array_agg(kind order by snapshot, position))[1] as first,
  (array_agg(kind order by snapshot desc, position desc))[1] as last,
  min(at) as first_at, max(at) as at, max(snapshot) as snapshot,
  max(at) filter (where kind in ('forced', 'deleted')) as cut_at,
  max(snapshot) filter (where kind in ('forced', 'deleted')) as cut,
  (array_agg(pushed_by order by snapshot desc, position desc))[1] as by,
  (array_agg(pushed_by order by snapshot desc, position desc) filter (where kind in ('forced', 'deleted')))[1] as cut_by,
  count(*) filter (where kind = 'forced') as forced,
  count(*) filter (where kind = 'deleted') as deleted,
  count(*) filter (where kind = 'created') as created
from (
  select
    move.ref_id, move.snapshot, move.position, move.kind, move.pushed_by, timed.at,
    width_bucket(timed.at, $7::timestamptz[]) as stretch
  from ref_change move
  join snapshot on snapshot.repo_id = $1 and snapshot.number = move.snapshot
  cross join lateral (
    select least(greatest(coalesce(move.pushed_at, snapshot.taken_at), $5), $6) as at
  ) timed
  where move.ref_id = any($2::bigint[]) and move.snapshot between $3 and $4
) move
group by ref_id, stretch
order by ref_id, stretch
