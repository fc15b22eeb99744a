-- listed_matches.sql($1 connection, $2 words in the name, $3 private, $4 archived, $5 fork, $6 limit; null: both): what the
-- connection can see and that is not backed up, by name, of those that a search finds.
select listed.repository_id, listed.full_name
from listed
join connection on connection.id = listed.connection_id
where listed.connection_id = $1 and listed.gone_at is null
  and position(lower($2::text) in lower(listed.full_name)) > 0
  and listed.private = coalesce($3::boolean, listed.private)
  and listed.archived = coalesce($4::boolean, listed.archived)
  and listed.fork = coalesce($5::boolean, listed.fork)
  and not exists (
    select from repo
    where repo.team_id = connection.team_id and repo.forge = connection.forge and repo.host = connection.host
      and repo.repository_id = listed.repository_id and repo.paused_at is null
  )
order by lower(listed.full_name), listed.repository_id
limit $6
