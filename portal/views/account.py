from django.contrib.auth.views import LoginView, LogoutView

from portal.access import public_view

login = public_view(LoginView.as_view(redirect_authenticated_user=True))
logout = public_view(LogoutView.as_view())
