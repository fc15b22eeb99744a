-- measures_teams.sql($1 now): what each team has: repos by state, bytes of live parts, and as of when all that are looked after are
-- protected; null where none ever was.
select team.name as team, state, count(repo.id) as n, count(*) filter (where is_outside_rpo(repo.told, $1)) as outside,
  min(extract(epoch from protected_as_of)::float8) filter (where archived_at is null and paused_at is null) as oldest,
  coalesce(sum((
    select sum(bytes) from part where part.repo_id = repo.id and replaced_at is null
  )), 0)::bigint as bytes
from team
join lateral (select repo.*, repo as told, repo_state(repo, $1) as state from repo where repo.team_id = team.id) as repo on true
group by team.name, state order by team.name, state
