-- mass_deletion.sql($1 repo_id, $2 moment): the last snapshot of an hour before (or the first one), how many refs it had, and how many
-- of these were deleted since and did not come back.
with base as (
  select number, refs_count from snapshot
  where repo_id = $1 and (taken_at <= $2::timestamptz - interval '1 hour' or number = 1)
  order by number desc
  limit 1
)
select base.number, base.refs_count, (
  select count(distinct move.ref_id)
  from ref_change move
  join ref on ref.id = move.ref_id
  where move.repo_id = $1 and move.snapshot > base.number and move.kind = 'deleted' and ref.name <> 'HEAD'::bytea
    and not exists (select from ref_stay stay where stay.ref_id = ref.id and stay.last_snapshot is null)
    and exists (
      select from ref_stay stay
      where stay.ref_id = ref.id and stay.first_snapshot <= base.number and stay.last_snapshot >= base.number
    )
) as gone
from base
