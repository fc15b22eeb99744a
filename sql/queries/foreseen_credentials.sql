-- foreseen_credentials.sql: every connection that works, with when its token expires, how many repos it reads, and whether who
-- connected it is a member of its team.
select
  team_id, login, host, expires_at, grant_kind,
  (select count(*) from repo where connection_id = connection.id and archived_at is null and paused_at is null) as repos,
  exists (
    select from member where member.team_id = connection.team_id and member.person_id = connection.person_id
  ) as owned
from connection where state = 'works' order by host, login
