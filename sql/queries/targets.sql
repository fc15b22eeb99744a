-- targets.sql($1 repo_id, $2 epoch, $3 snapshot): every object id that a ref pointed at in the epoch's snapshots up to this one,
-- and in the moments within them whose objects the pack log has by then.
with span as (
  select min(number) as first from snapshot where repo_id = $1 and epoch = $2
)
select stay.target
from span, ref join ref_stay stay on stay.ref_id = ref.id
where ref.repo_id = $1 and stay.first_snapshot <= $3
  and coalesce(stay.last_snapshot, $3) >= span.first
  and substring(stay.target from 1 for 5) <> 'ref: '::bytea
union
select move.new
from span, ref_change move
left join moment on moment.repo_id = $1 and moment.snapshot = move.snapshot and moment.number = move.moment
where move.repo_id = $1 and coalesce(moment.log, move.snapshot) between span.first and $3 and move.new is not null
  and substring(move.new from 1 for 5) <> 'ref: '::bytea
