-- causes_of_all.sql($1 now, $2 names of each): as causes.sql for every team at once, and the limits that teams have reached.
with found as (
  select
    team.id as team_id, cause, count(*) as many, count(*) filter (where unsaved) as unsaved, min(since) as since,
    (array_agg(trouble.name order by trouble.name))[1:$2] as names,
    (array_agg(coalesce(detail, '') order by trouble.name))[1:$2] as details
  from team cross join lateral troubled(team.id, $1) trouble group by team.id, cause
), known as (
  select found.*, forge, host, login, why
  from found left join connection on found.cause = 'token:' || connection.id
  union all
  select team_id, 'token:' || id, 0, 0, refused_at, '{}', '{}', forge, host, login, why
  from connection
  where state = 'reauth' and not exists (
    select from found where found.team_id = connection.team_id and cause = 'token:' || connection.id
  )
  union all
  select team_id, 'over', 0, 0, since, '{}', '{}', null, null, null, message from team_over
)
select known.*, team.name as team from known join team on team.id = known.team_id
