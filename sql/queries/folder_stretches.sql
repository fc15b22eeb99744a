-- folder_stretches.sql($1 repo_id, $2 ref ids that have lanes of their own, $3 first snapshot, $4 last, $5 where each stretch begins):
-- what all other refs did in each stretch of a window, by their folder; and in rows without a stretch, how many refs that were.
-- What the first snapshot of all created is no move: it was there before anybody looked.
with timed as materialized (
  select number, taken_at, width_bucket(taken_at, $5::timestamptz[]) as stretch
  from snapshot
  where repo_id = $1 and number between greatest($3, 2) and $4
), moved as materialized (
  select
    move.ref_id, timed.stretch, count(*) as moves, max(timed.taken_at) as at, max(move.snapshot) as snapshot,
    max(timed.taken_at) filter (where move.kind in ('forced', 'deleted')) as cut_at,
    max(move.snapshot) filter (where move.kind in ('forced', 'deleted')) as cut,
    count(*) filter (where move.kind = 'forced') as forced,
    count(*) filter (where move.kind = 'deleted') as deleted,
    count(*) filter (where move.kind = 'created') as created
  from ref_change move
  join timed on timed.number = move.snapshot
  where move.repo_id = $1 and move.snapshot between greatest($3, 2) and $4 and move.ref_id <> all($2::bigint[])
  group by move.ref_id, timed.stretch
), told as (
  select
    substring(ref.name from 1 for 5 + position('/'::bytea in substring(ref.name from 6))) as folder, moved.*
  from moved join ref on ref.id = moved.ref_id
  where ref.name <> 'HEAD'::bytea
)
select
  folder, stretch, sum(moves)::bigint as moves, 'moved' as first, 'moved' as last,
  max(at) as at, max(snapshot) as snapshot, max(cut_at) as cut_at, max(cut) as cut,
  sum(forced)::bigint as forced, sum(deleted)::bigint as deleted, sum(created)::bigint as created, null::bigint as refs
from told
group by folder, stretch
union all
select folder, null, 0, 'moved', 'moved', null, 0, null, null, 0, 0, 0, count(distinct ref_id) from told group by folder
order by folder, stretch
