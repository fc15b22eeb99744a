-- causes.sql($1 team_id, $2 now, $3 names of each): why repos of a team need somebody, with how many have each cause. A connection
-- whose token is refused is one, also where no repo needs it just now.
with found as (
  select
    cause, count(*) as many, count(*) filter (where unsaved) as unsaved, min(since) as since,
    (array_agg(name order by name))[1:$3] as names, (array_agg(coalesce(detail, '') order by name))[1:$3] as details
  from troubled($1, $2) group by cause
)
select found.*, connection.id as connection_id, forge, host, login, why, grant_kind
from found left join connection on found.cause = 'token:' || connection.id
union all
select 'token:' || id, 0, 0, refused_at, '{}', '{}', id, forge, host, login, why, grant_kind
from connection
where team_id = $1 and state = 'reauth' and not exists (select from found where cause = 'token:' || connection.id)
