-- targets.sql($1 repo_id, $2 epoch, $3 snapshot, $4 numbers that are about to be dropped): every object id that a ref pointed at in
-- the epoch's snapshots up to this one, and in the moments within them whose objects the pack log has by then. What only dropped
-- snapshots had is not among them.
with judged as (
  select number, dropped_at is null and not number = any($4::int[]) as is_kept
  from snapshot where repo_id = $1 and epoch = $2 and number <= $3
), numbered as (  -- a moment within a snapshot has the refs of the snapshot before, but for its own moves
  select number, is_kept or number + 1 in (
    select moment.snapshot from moment join judged later on later.number = moment.snapshot and later.is_kept
    where moment.repo_id = $1
  ) as is_kept
  from judged
), upto as (  -- the last kept snapshot up to each
  select number, max(number) filter (where is_kept) over (order by number) as kept from numbered
), span as (
  select min(number) as first, max(number) as last from numbered
)
select stay.target
from span
cross join ref
join ref_stay stay on stay.ref_id = ref.id
join upto on upto.number = least(coalesce(stay.last_snapshot, span.last), span.last)
where ref.repo_id = $1 and stay.first_snapshot <= $3 and upto.kept >= stay.first_snapshot
  and substring(stay.target from 1 for 5) <> 'ref: '::bytea
union
select move.new
from span
cross join ref_change move
left join moment on moment.repo_id = $1 and moment.snapshot = move.snapshot and moment.number = move.moment
where move.repo_id = $1 and coalesce(moment.log, move.snapshot) between span.first and $3 and move.new is not null
  and substring(move.new from 1 for 5) <> 'ref: '::bytea
  and not exists (select from numbered where number = move.snapshot and not is_kept)
