-- feed.sql($1 repo_id, $2 before this snapshot, $3 kinds or null, $4 LIKE patterns or null, $5 who or null, $6 pushes, $7 moves of each):
-- the snapshots before that one in which such refs moved, newest first, with the first of those moves.
with push as (
  select snapshot from (
    select distinct snapshot from ref_change
    where repo_id = $1 and snapshot < $2
      and ($3::text[] is null or kind = any($3))
      and ($4::bytea[] is null or ref_id in (select id from ref where repo_id = $1 and name like any($4)))
      and ($5::text is null or pushed_by = $5)
  ) found
  order by snapshot desc
  limit $6
)
select
  push.snapshot, snapshot.taken_at, snapshot.reason, snapshot.changes_count, snapshot.dropped_at is not null as is_dropped,
  ref.name, move.old, move.new, move.kind, move.pushed_by, move.pushed_at, move.moment
from push
join snapshot on snapshot.repo_id = $1 and snapshot.number = push.snapshot
cross join lateral (
  select * from ref_change
  where repo_id = $1 and snapshot = push.snapshot
    and ($3::text[] is null or kind = any($3))
    and ($4::bytea[] is null or ref_id in (select id from ref where repo_id = $1 and name like any($4)))
    and ($5::text is null or pushed_by = $5)
  order by position
  limit $7
) move
join ref on ref.id = move.ref_id
order by push.snapshot desc, move.position
