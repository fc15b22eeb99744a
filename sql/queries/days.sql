-- days.sql($1 repo ids, $2 since): what each of these repos went through on each day, in UTC; days without anything are left out.
select repo_id, day, sum(snapshots) as snapshots, sum(moves) as moves, sum(taken) as taken, sum(failures) as failures
from (
  select repo_id, (taken_at at time zone 'UTC')::date as day, count(*) as snapshots, sum(changes_count) as moves, 0 as taken, 0 as failures
  from snapshot
  where repo_id = any($1::uuid[]) and taken_at >= $2
  group by 1, 2
  union all
  select move.repo_id, (snapshot.taken_at at time zone 'UTC')::date, 0, 0, count(*), 0
  from ref_change move
  join snapshot on snapshot.repo_id = move.repo_id and snapshot.number = move.snapshot
  where move.repo_id = any($1::uuid[]) and snapshot.taken_at >= $2
    and move.old is not null and move.kind in ('forced', 'deleted') and move.kind <> 'fast-forwarded'
    and substring(move.old from 1 for 5) <> 'ref: '::bytea
  group by 1, 2
  union all
  select repo_id, (finished_at at time zone 'UTC')::date, 0, 0, 0, count(*)
  from job
  where repo_id = any($1::uuid[]) and queued_at >= $2 and state = 'failed' and kind = 'sync'
  group by 1, 2
) told
group by repo_id, day
order by repo_id, day
