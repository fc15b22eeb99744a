-- neighbours.sql($1 repo_id, $2 snapshot): a snapshot, the kept ones before and after it, the very next one, and of that the first
-- move that took something away.
select snapshot.number, snapshot.taken_at, snapshot.dropped_at is null as is_kept, took.*
from snapshot
left join lateral (
  select move.snapshot, move.old, move.new, move.kind, move.pushed_by, move.pushed_at, ref.name
  from ref_change move join ref on ref.id = move.ref_id
  where move.repo_id = $1 and move.snapshot = snapshot.number and snapshot.number = $2 + 1
    and move.kind in ('forced', 'deleted')
  order by move.position
  limit 1
) took on true
where snapshot.repo_id = $1 and snapshot.number in (
  $2, $2 + 1,
  (select max(number) from snapshot where repo_id = $1 and number < $2 and dropped_at is null),
  (select min(number) from snapshot where repo_id = $1 and number > $2 and dropped_at is null)
)
