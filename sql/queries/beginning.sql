-- beginning.sql($1 repo_id): what a sync must know of its repo when its turn begins.
select
  repo.*,
  (select sealed from credential where credential.repo_id = repo.id) as sealed,
  (select connection from connection where connection.id = repo.connection_id) as connection,
  array(select intent_heard from intent_heard where intent_heard.repo_id = repo.id order by at, key) as intents,
  clock_timestamp() as asked_at,
  latest,
  (select name from team where team.id = repo.team_id) as team,
  (select sealed_since is not null from team where team.id = repo.team_id) as is_sealed,
  exists (
    select from team_limit where team_limit.team_id = repo.team_id and team_limit.name in ('stored-bytes', 'repo-bytes')
  ) as has_limits,
  (select part from part where part.key = latest.bundle_key) as born
from repo
left join snapshot as latest
  on latest.repo_id = repo.id and latest.number = (select max(number) from snapshot where repo_id = repo.id)
where repo.id = $1
