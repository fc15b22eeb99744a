-- ref_ids.sql($1 repo_id, $2 names): the id of each name, in their order; null where the repo never had it.
select found.id
from unnest($2::bytea[]) with ordinality as given (name, position)
left join lateral (
  select id from ref where repo_id = $1 and sha256(name) = sha256(given.name) limit 1
) found on true
order by given.position
