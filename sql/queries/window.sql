-- window.sql($1 repo_id, $2 start, $3 end, $4 HEAD): the first and the last snapshot of a window, and HEAD at the last one.
-- Where there is no snapshot in it, the last one is before it.
with bounds as (
  select
    (select number from snapshot where repo_id = $1 and taken_at >= $2 order by taken_at, number limit 1) as first,
    (select number from snapshot where repo_id = $1 and taken_at <= $3 order by taken_at desc, number desc limit 1) as last
)
select bounds.*, (
  select stay.target
  from ref
  cross join lateral (
    select target, last_snapshot from ref_stay
    where ref_id = ref.id and first_snapshot <= bounds.last
    order by first_snapshot desc
    limit 1
  ) stay
  where ref.repo_id = $1 and sha256(ref.name) = sha256($4::bytea)
    and (stay.last_snapshot is null or stay.last_snapshot >= bounds.last)
) as head
from bounds
