-- listed_of.sql($1 connection, $2 repository ids or null for all): what the connection can see or once could, by name.
select listed.*, repo.id as repo_id, repo.name as repo_name, repo.id is not null and repo.paused_at is null as chosen,
  repo.id is not null and repo.paused_at is not null and repo.disconnected as disconnected
from listed
join connection on connection.id = listed.connection_id
left join repo on repo.team_id = connection.team_id and repo.forge = connection.forge and repo.host = connection.host
  and repo.repository_id = listed.repository_id
where listed.connection_id = $1 and ($2::text[] is null or listed.repository_id = any($2))
order by lower(listed.full_name), listed.repository_id
