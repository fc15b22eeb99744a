-- folder_stretches.sql($1 repo_id, $2 ref ids that have lanes of their own, $3 first snapshot, $4 last, $5 start, $6 end, $7 stretches):
-- what all other refs did in each stretch of a window, by their folder; and in a row without a stretch, how many refs that were.
select
  folder, stretch, count(*) as moves,
  'moved' as first, 'moved' as last,
  max(taken_at) as at, max(snapshot) as snapshot,
  count(*) filter (where kind = 'forced') as forced,
  count(*) filter (where kind = 'deleted') as deleted,
  count(*) filter (where kind = 'created') as created,
  count(distinct ref_id) as refs
from (
  select
    move.ref_id, move.snapshot, move.kind, snapshot.taken_at,
    substring(ref.name from 1 for 5 + position('/'::bytea in substring(ref.name from 6))) as folder,
    width_bucket(
      extract(epoch from snapshot.taken_at)::float8, extract(epoch from $5::timestamptz)::float8,
      extract(epoch from $6::timestamptz)::float8, $7::int
    ) - 1 as stretch
  from ref_change move
  join snapshot on snapshot.repo_id = $1 and snapshot.number = move.snapshot
  join ref on ref.id = move.ref_id
  where move.repo_id = $1 and move.snapshot between $3 and $4 and not (move.snapshot = 1 and move.kind = 'created')
    and move.ref_id <> all($2::bigint[]) and ref.name <> 'HEAD'::bytea
) move
group by grouping sets ((folder, stretch), (folder))
order by folder, stretch
