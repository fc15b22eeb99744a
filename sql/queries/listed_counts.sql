-- listed_counts.sql($1 connection): how many repositories it can see, and how many of them are kept.
select
  count(*) as all,
  count(*) filter (where listed.private) as private,
  count(*) filter (where listed.archived) as archived,
  count(*) filter (where listed.fork) as forks,
  count(*) filter (where repo.id is not null and repo.paused_at is null) as chosen
from listed
join connection on connection.id = listed.connection_id
left join repo on repo.team_id = connection.team_id and repo.forge = connection.forge and repo.host = connection.host
  and repo.repository_id = listed.repository_id
where listed.connection_id = $1 and listed.gone_at is null
