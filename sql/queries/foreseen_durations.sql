-- foreseen_durations.sql($1 now, $2 window, $3 seconds): of repos with a run that took longer than that, the longest run of each day.
select
  repo.team_id, repo.id, repo.name,
  array_agg(day.at order by day.at) as times, array_agg(day.seconds order by day.at) as seconds
from (
  select repo_id, max(finished_at) as at, max(extract(epoch from finished_at - started_at))::float8 as seconds
  from job
  where kind = 'sync' and state = 'done' and started_at is not null and finished_at > $1::timestamptz - $2::interval
  group by repo_id, date_trunc('day', finished_at, 'UTC')
) as day join repo on repo.id = day.repo_id
where archived_at is null and paused_at is null
group by repo.id having max(day.seconds) > $3
