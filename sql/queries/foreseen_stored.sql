-- foreseen_stored.sql($1 now, $2 window): how many bytes each team's snapshots of each day added.
select team_id, max(taken_at) as at, sum(coalesce(segment_bytes, 0))::float8 as bytes
from snapshot join repo on repo.id = snapshot.repo_id
where taken_at > $1::timestamptz - $2::interval
group by team_id, date_trunc('day', taken_at, 'UTC') order by team_id, at
