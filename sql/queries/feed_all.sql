-- feed_all.sql($1 repo_id, $2 before this snapshot, $3 pushes, $4 moves of each): as feed.sql of everything, without a look at every move.
select
  push.number as snapshot, push.taken_at, push.reason, push.changes_count, push.dropped_at is not null as is_dropped,
  ref.name, move.old, move.new, move.kind, move.pushed_by, move.pushed_at, move.moment
from (
  select * from snapshot
  where repo_id = $1 and number < $2 and changes_count > 0
  order by number desc
  limit $3
) push
cross join lateral (
  select * from ref_change
  where repo_id = $1 and snapshot = push.number
  order by repo_id, snapshot, position
  limit $4
) move
join ref on ref.id = move.ref_id
order by push.number desc, move.position
