-- listed.sql: one page of what a connection can see, by name.
-- $1 connection, $2 words in the name, $3 private, $4 archived, $5 fork, $6 chosen (null: both), $7 and $8 name and id of the last one before, $9 limit
select listed.*, repo.id as repo_id, repo.name as repo_name, repo.id is not null and repo.paused_at is null as chosen,
  repo.id is not null and repo.paused_at is not null and repo.disconnected as disconnected
from listed
join connection on connection.id = listed.connection_id
left join repo on repo.team_id = connection.team_id and repo.forge = connection.forge and repo.host = connection.host
  and repo.repository_id = listed.repository_id
where listed.connection_id = $1 and listed.gone_at is null
  and position(lower($2::text) in lower(listed.full_name)) > 0
  and listed.private = coalesce($3::boolean, listed.private)
  and listed.archived = coalesce($4::boolean, listed.archived)
  and listed.fork = coalesce($5::boolean, listed.fork)
  and ($6::boolean is null or $6 = (repo.id is not null and repo.paused_at is null))
  and ($7::text is null or (lower(listed.full_name), listed.repository_id) > (lower($7), $8::text))
order by lower(listed.full_name), listed.repository_id
limit $9
